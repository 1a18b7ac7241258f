"""The known failures of released executors and of core, by line of Airflow; their subclasses inherit them."""
