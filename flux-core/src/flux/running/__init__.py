"""The processes of a running system: hypervisor, supervisor, launcher, DAG hosts and attempts, and how they talk."""
