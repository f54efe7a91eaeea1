"""The OpenAPI document, made from the bodies' models and two tables: operations and answers."""
