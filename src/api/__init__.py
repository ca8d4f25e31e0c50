"""The Python interface: what `import segue` offers. Each function calls the verb that does the same."""
