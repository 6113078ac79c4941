"""Wire contracts: the .proto files with their generated code, and the specifications EVIDENCE.md and COMMANDS.md.

Here lives what two parties must agree on byte for byte, and the test vectors that hold them to it.
No behaviour lives here: nothing in this folder signs, verifies, connects or decides.
"""
