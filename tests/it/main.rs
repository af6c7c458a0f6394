//! Integration tests: real gateway, real connection point, real sockets. One module per topic.
