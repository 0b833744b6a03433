"""``python -m benches.failures``."""

from benches.failures.run import main

if __name__ == "__main__":
    main()
