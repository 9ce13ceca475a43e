"""Networks that come with the package, as ``.seedmask`` files; README.md beside them says what each is.

``importlib.resources.files(__name__) / "NAME.seedmask"`` is the path of one.
"""
