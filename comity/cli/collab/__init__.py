"""`comity collab`: agree with a partner what may be asked, look at it, change it, leave."""

from comity.cli.collab import agreeing, amending
from comity.cli.collab.app import app

__all__ = ["agreeing", "amending", "app"]
