"""Which project, settings and catalog does this process work with, and how does Spark start for it?"""
