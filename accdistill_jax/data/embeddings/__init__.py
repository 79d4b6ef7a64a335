"""Tables of embeddings by other models, and their alignment with the minutes of stores."""
