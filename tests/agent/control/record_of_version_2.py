"""A record as commit 2b6c14d wrote it: of version 2, when targets were shared out by the rule of a quarter."""

from __future__ import annotations

import base64
from typing import Final

OF_VERSION_2: Final = base64.b64decode(
    "eJzMVgtwE8cZ3pOMcSAweEhwZPM4iwQbY8NJNjEVpJYhtsmjQN1MIie41ul0ki+W7uS7M5Zw3JxOsi05U4YSZngEKM+2SRoeyRCScVNcE4wz"
    "TQk4tltIZ5rShJC0xX1IByruY1eSrTqxkTMTBm5Our19/N+3u9/37wEAJvlUpM4IQEradwJZIJXOyP1plzEUbnXPbtJaGYGqJXk7XeOieScj"
    "irRVaxD5BrrZXdqk5WmxgWdrrLSD9NQ4OUGsEbSGosVE/nALTzpdaCRFsyJ61jgZtkGktYYHCYJotjSh2+euaNIyMKzWzsNHvraOYdGbkxZp"
    "Hr5aeWYDLBi0QgMruGgKVpFWK08LEEsrUi7DkiVOw1JCr212r48HspCQKO9JxEpUjBHNRfKQXgL/y9Et8ejr4tEpkk9Ejq3OKJ4c5XKNETbe"
    "s2YkRrO/RbYIhLzA9AxRRcxMnZzXuvrsQyosNS1aUGOT1StByiNTNN+bN+uH6w1PX56R9q2OgjlbprkvH/55SfPPNLbOa9mujt8syf7IlNV/"
    "r3rmoef+VbD7z5em/bgcyzgeGIocDRU3boUQuiQQH5wpN+159J7JLW+c3Hpmwc7zxzb2Vt34LKNrw+Gp08XthUf2XKpWTX3mc88v175ov1Sv"
    "z7+yDzw7OL1USf+sQ0Ns23QdQuiTQHzcsSZdz18bbHnzRrfnyr/nzU377WvWXo9+cP+7C/92z2N7Xje/N0/a2XH6A+zEwNmNddXsvWHN4FG+"
    "/JVPMtSt23Z9CCEKk0DsuB74b/qikmpzYXf6Wl4/8E/P9npd/18XPl9y7FdDea8q1Y5jq6ScrPlrl+oulLxgKPjk5P6jrme75KHtxcE/nOXs"
    "EKIoCYQ9zKTt69X87uO8+l29FcucjxWuKfzi8zTpCXxB/dmsl6evKF3UWNrX9tHWG1d3v8Gcn7vTRTgvdA3We+dXVAs/CAKVLIPMgRcPAhnL"
    "xN47JVkeLvNJkuSPUOdCLbAQedIIixIqtkkSABKQwv4gag1GhoACAAhJkedASFaUkDtXrKVxOynSjaQHbyQFXBBJHvoTb2TEWpwRBdxJUrUM"
    "SytyQFIUBaAQ8Ce1taEHvCRzBP5hsARZKDIkgtgoIYisGixrB76RbBDOXP7K3ZBbLyiVvH5f0Io0TUcdauNYBwQxK5uilbCPRn0F3opZygRq"
    "2aU5tU6jMiHmkEPQHnfi8HN49GZNzgx4h8Nhdx5PQx9B+iKHk7iNdDgsJFWHi7WkGJ2mq0HEGRY2MiKAaxIxAh+mUodCQNo0HBURHZcCBb1n"
    "j5vxm4VHkW8C3Q73imtkaT6kwfIV2ALZKLI8TNqnKHA7ZBQkVlQkb6QIeGVg6pfl1uFuALhNLGfhrB6c4pxOkrUKBhxJId6OOziuTsBJG3yJ"
    "1tdyDQJs9SBJ0A7bctzCNbBWVAHH0wIenZ7g4BodHm/9V6qUVkQIgq4YExS24bG1FL5uYMlrCrZNgupzCYxIL4YdGNZeg3pYUYXbMVF9G3An"
    "x9O4i2uEM2bg1B0QAPaLLYEOF/IRVRYRQ8cO/gDO2XCeFCEc3OHYiWSGJphX1n7XWJJf6ZXQhbr0Vcqtbo2VsRrqaI9h48MsST9BC2JFjKXO"
    "S7McL9bWweND5BlKhAfCyPaiZdTsMkp+DEHMqkz5PcgCOIhe3kDUO0myz7fPzzwRWP54Veqy4t1Hu2ZfnCUuPvfAutUnVxX+6EPxF9nnN+/A"
    "d77/bs/++3tWHTkY6m6/a1rKxe9vD168dP3q0JW8YiPwA6hUL5mXCbDWvQl0ANTHy9qxsaZehd3nq8JmTFFRujkAdBpzpS0D3f/Yv0Otx09d"
    "u7r3169Wvn39MvGQfn3rofSyWRWHLF3/yTy8izm44cE/GS5gvX5T6QFsQYoJzz6SPuXAF8u3TXqfEn13f/rOoewL2OnsmoD58TO+Fn915wz3"
    "fRv09oL4bi+Ja2wRxQn0XtPaLdhN1nzUAgMMaDJcyshMYoX+IFCiCwybFSlkMh5x+E4X/v2dA3O9Ug/30uxUZfNfZvYNYM839XM9jm1z3Fu+"
    "28kyx/eVvPxo2uH1J1p+YuM/rSANzbalaX/MeaH8/oAC18brl27qXckrY1XYS6OdSxciAT6FBLhqdWllRVlMkU8hbSKCeAMrMg5cT+iLCwhd"
    "gW4pTiwzEISBKHoaz42vCp5D6XIWfk23RVaCYSPfTg7eoCmpcMJwByHNyjjHODky6nBBYCwOOh+3cfxwvjN8FTsfpaUx6kOjtGKWTUUBFZac"
    "kIXSgRFFmRVT20RHqUZG3YrZKCghlZa1p4xlXNN8b3KK8aymzk2c9SdSJBjk7TVShOqbwFnfh876yedu71nfB8alcKvP+nGhJ3DWr0jkixWx"
    "fAHuoHxhvAPyhfHOyhfRL4CCxEfCKK+s83pHestmqIq4uVRywlzd5Z1wQM/mzgg1MAFzDSBzTX3r9pprAIxL4Vaba1zoCZjLmDCXMW4uk/J/"
    "3oKR4e1+5BvTtgRNHHXMLYk8UR8gK5iTyHaUCr8k26lvRWX7PwAAAP//"
)
"""Turns about a CHARGE of 6 kW by `battery` and `car` of `boxes.py`, which come back slowly."""
DIGEST: Final = "d7f97c32f39d7107901b8cccbc5ebd09134b84548ffaed378d32af99da7cc106"
