"""Run ``airflow db migrate``, and make sure that it migrated the tables of every provider as well.

It is a module to run, in a process of its own. Airflow knows the database managers that providers declare and those of
``[database] external_db_managers``; it does not look at what they did.
"""

from __future__ import annotations

import pkgutil
import sys


def main() -> None:
    """Migrate the database that Airflow is configured for; end with a sentence if a provider's tables are behind."""
    sys.argv = ["airflow", "db", "migrate"]  # plugins look at it while Airflow is imported
    from airflow.__main__ import main as airflow

    airflow()
    if left := behind():
        sys.exit(
            f"The tables of {', '.join(left)} are not at their latest migration. This is a defect of the provider that "
            "brings it, or the provider is for another Airflow; upgrade or uninstall it."
        )


def behind() -> list[str]:
    """Return the database managers whose tables are not at their latest migration."""
    from airflow.configuration import conf
    from airflow.providers_manager import ProvidersManager
    from airflow.utils.session import create_session

    configured = (conf.get("database", "external_db_managers", fallback="") or "").split(",")
    names = [name.strip() for name in (*ProvidersManager().db_managers, *configured) if name.strip()]
    with create_session() as session:
        return [name for name in dict.fromkeys(names) if not pkgutil.resolve_name(name)(session).check_migration()]


if __name__ == "__main__":
    main()
