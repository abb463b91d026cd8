"""Two partners on one machine, from raw tables to a joint model, on real data: `comity demo`.

>>> import numpy as np
>>> from comity.demo.people import invent, written_mobile
>>> people = invent(np.arange(3), np.array([34, 51, 28]), np.array([1, 0, 1]), seed=7)
>>> len(set(people.email)), all(len(number) == 11 for number in people.mobile)
(3, True)
>>> written_mobile("13800001234", 3)
'+86 138-0000-1234'
"""
