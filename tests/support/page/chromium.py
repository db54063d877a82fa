"""Where Debian's Chromium is. Playwright is not imported here, because it is slow to import."""

import shutil

# The browser as visitors run it. Only tests that need its profile on disk or its back/forward cache run it directly.
CHROMIUM = shutil.which("chromium")
# The same engine without the parts that show a window, which halves the CPU time of the tests; Chromium does as well.
HEADLESS = shutil.which("chromium-headless-shell") or CHROMIUM
MISSING = "Browser tests: skipped, because Chromium is not installed: scripts/install-browser."
