"""What clients lend to builds over the wire: their side of a session, and what the builder makes of it.

`tunnel` turns a stream of bytes into a channel on which we call the client's services; `registry` keeps the sessions
that are open; `lent` is the Session that builds see; `receive` and `send` move directories.
"""
