"""What all routes share: problems, query parameters, responses, the guard. Imported by routes, page and submission."""
