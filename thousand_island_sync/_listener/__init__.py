"""How clients come in: listening sockets, acceptors, the limit of connections."""
