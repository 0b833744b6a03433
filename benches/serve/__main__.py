"""``python -m benches.serve``."""

import sys

from benches.serve.run import main

sys.exit(main())
