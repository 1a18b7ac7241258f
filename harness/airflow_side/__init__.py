"""The code that runs in a process that imports Airflow; it never replaces a method of Airflow."""
