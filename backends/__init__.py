"""Environments of the executors that Airflow ships; third parties register their own."""
