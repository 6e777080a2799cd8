"""The HTTP routes, one module per area. A handler reads the request, asks the store, answers a document.

access.py decides who may; nothing else in here does.
"""
