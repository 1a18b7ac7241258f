"""What released executors and Airflow's core are known to break, by line; for their subclasses too."""
