"""From queries to ranks and to the best candidates: exact, approximate, and in sparse scores."""
