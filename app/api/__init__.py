"""What every router uses: problems, responses, pages, dependencies, middleware, OpenAPI."""
