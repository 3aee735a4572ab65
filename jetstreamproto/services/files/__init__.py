"""Files: a folder that is served, and whole files in and out of it, which survive a cut."""
