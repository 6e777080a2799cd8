"""The messages of Coder's control plane (protobuf) and their translation to our values.

`proto/` holds the .proto files, written from the public field lists, and what `scripts/genproto` makes of them;
`convert` translates. Importing protobuf costs start-up time: only import this room where a connection is made.
"""
