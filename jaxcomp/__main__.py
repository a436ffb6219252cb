"""python -m jaxcomp"""

import sys

from jaxcomp.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
