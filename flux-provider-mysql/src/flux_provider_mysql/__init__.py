"""MySQL and MariaDB for Flux: run statements, wait for a row. Import from `.operators` and `.sensors`."""
