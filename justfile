# Commands of this repository; https://just.systems runs them, and each line works in a shell as well.

# Style, types, imports between rooms, and the fast tests
check:
    ruff check .
    ruff format --check .
    mypy
    lint-imports --no-logo
    pytest -q -m "not slow and not train and not browser"

# All tests
test:
    pytest -q
