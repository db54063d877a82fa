"""Where Debian's Chromium is. Playwright is not imported here, because it is slow to import."""

import shutil

CHROMIUM = shutil.which("chromium")
MISSING = "Browser tests: skipped, because Chromium is not installed (Debian package chromium)."
