"""The live lab: one run paced to the wall clock, with people and outside tools in it.

In the order of dependence: loopback (the only real sockets of the product), inputs (everything that comes from outside,
as data with a virtual time), bridge (outside bytes in the in-memory network), alarms, session (one run and the inputs
that it takes, without a clock), recording (the inputs on disk), engine (the thread that drives a session at a pace),
outside (real connections of tools), mimic and views (what people see), web, serve (all of it together).

What is below ``engine`` knows no wall clock: a session and its inputs give the same trace again at any speed.
"""
