"""``python -m benches.fetch``."""

from benches.fetch.run import main

if __name__ == "__main__":
    main()
