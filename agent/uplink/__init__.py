"""The only room that speaks to the platform: gRPC, with the client key in the token, or MQTT 5 over TLS.

Delivers what the store holds and hands in what the platform says. It verifies acknowledgements; it decides nothing.
"""
