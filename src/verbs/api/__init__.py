"""The Python interface, what `import segue` offers: each function calls the verb that does the same."""
