"""Running an int8 file as another x86 processor would: `qemu-x86_64` and a child process.

emulator   finds the program and the processor, starts the child, asks it
child      what runs there: images in, scores out
frames     how arrays travel between the two
"""
