"""manage.py check_ledger: does every credit have its earning, and every account its sum?"""

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from training import earnings


class Command(BaseCommand):
    help = "Verify every invariant of the ledger; exit code 1 and one line for each violation where there is any."

    def handle(self, *args: Any, **options: Any) -> None:
        audit = earnings.audit(now=timezone.now())
        for violation in audit.violations:
            self.stdout.write(violation)
        if audit.violations:
            raise CommandError(f"{len(audit.violations)} violations", returncode=1)
        self.stdout.write(
            f"ledger clean: {audit.num_transactions} transactions, {audit.num_contributors} contributors, "
            f"{audit.minted_credits} credits minted"
        )
