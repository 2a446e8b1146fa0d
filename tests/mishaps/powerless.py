"""Runs a program without root's right to write where permissions forbid it.

python powerless.py PROGRAM [its flags]
"""

import ctypes
import runpy
import struct
import sys

VERSION = 0x20080522  # of Linux's interface: 64 capabilities, in two times three words

if ctypes.CDLL(None).capset(struct.pack("Ii", VERSION, 0), struct.pack("6I", *[0] * 6)) != 0:
    sys.exit("capabilities cannot be given up here")
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
