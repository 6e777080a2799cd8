"""Direct paths: the node's UDP sockets. Start reading at transport.py; receiver.py and sender.py are the hot part."""
