"""What optuna-dashboard shows of a search: attributes, pictures, notes, figures, and the server itself."""
