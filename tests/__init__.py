"""Fast tests of pure logic, laid out like the packages that they test. No sockets, no sleeps, no real parts."""
