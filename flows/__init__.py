"""What a person starts or schedules: the command, Prefect flows, reports."""
