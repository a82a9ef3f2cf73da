def main(): print("lite")
