"""Every fault that can befall a part, and what must hold after it."""
