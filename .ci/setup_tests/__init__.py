"""What tests the set-up: the environment, the locks, the wheel, the container, the site, and the tests themselves."""
