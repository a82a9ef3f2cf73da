from lite.cli import main

main()
