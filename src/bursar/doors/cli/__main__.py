"""`python -m bursar.doors.cli`."""

from bursar.doors.cli import main

if __name__ == "__main__":
    main()
