"""`python -m vmm.lab`."""

import sys

from vmm.lab.run import main

sys.exit(main())
