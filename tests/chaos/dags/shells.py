"""Bash: what it prints, what it leaves behind, how it ends."""

from flux import DAG
from flux.operators import BashOperator

#: In the words of `chaos_journal`: a line at the beginning, the lock of the task instance, a line at the end.
BEGIN = """
note() { echo "$1 $(date +%s%N) $2" >> "$FLUX_HOME/journal/{{ claim }}"; }
note begin "$$ {{ ti.dag_id }} {{ ti.run_id }} {{ ti.task_id }} {{ ti.attempt }}"
lock="instance.{{ ti.dag_id }}.{{ ti.run_id }}.{{ ti.task_id }}"
exec 9>> "$FLUX_HOME/locks/$lock.0"
flock -n 9 || note over "$lock"
"""
END = "\nnote end\n"


def bash(task_id, command):
    return BashOperator(task_id=task_id, bash_command=BEGIN + command + END)


with DAG("shells", schedule=None, max_active_runs=3, default_args={"retries": 2, "retry_delay": 0.1}) as dag:
    first = bash("first", "sleep 0.1; echo done")
    behind = [
        bash("prints", "head -c 3000000 /dev/zero | tr '\\0' 'y' | fold -w 200"),
        bash("leaves", "sleep 600 & setsid sleep 600 & (trap '' TERM; sleep 600) & sleep 0.2"),
        bash("empties", "env -i sleep 600 & sleep 0.1"),
        bash("dies", "[ $((RANDOM % 2)) = 0 ] || kill -9 $$"),
        bash("gives_up", "[ $((RANDOM % 3)) = 0 ] || exit 7"),
        bash("skips", "[ $((RANDOM % 2)) = 0 ] || exit 99"),
    ]
    first >> behind >> bash("last", "true")
