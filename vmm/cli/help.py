"""What `--help` says beside the options."""

from __future__ import annotations

__all__ = [
    "CONSOLE_ALL",
    "CONSOLE_DESCRIPTION",
    "CONSOLE_EPILOG",
    "CPU_DESCRIPTION",
    "CPU_EPILOG",
    "DESCRIPTION",
    "DOCTOR_DESCRIPTION",
    "DOCTOR_EPILOG",
    "EPILOG",
    "GDB_DESCRIPTION",
    "GDB_EPILOG",
    "IMAGE_DESCRIPTION",
    "IMAGE_EPILOG",
    "KILL_DESCRIPTION",
    "PAUSE_DESCRIPTION",
    "PAYLOADS_DESCRIPTION",
    "PAYLOADS_EPILOG",
    "PS_DESCRIPTION",
    "PS_EPILOG",
    "REPLAY_DESCRIPTION",
    "REPLAY_EPILOG",
    "RESTORE_DESCRIPTION",
    "RESTORE_EPILOG",
    "RESUME_DESCRIPTION",
    "RUN_DESCRIPTION",
    "RUN_EPILOG",
    "SNAPSHOT_DESCRIPTION",
    "SNAPSHOT_EPILOG",
    "STAT_DESCRIPTION",
    "STAT_EPILOG",
    "STOP_DESCRIPTION",
    "TOP_DESCRIPTION",
    "TOP_EPILOG",
    "WHAT_TO_WATCH",
    "WHICH_CPU",
    "WHICH_MACHINE",
]

DESCRIPTION = "A KVM virtual machine monitor in which every exit can be seen."

EPILOG = """\
examples:
  vmm run payload:hello16          boot a built-in guest
  vmm run boot.img                 boot a boot sector or a disk image
  vmm run kernel.elf --memory 64M --append "verbose"
  vmm run --tui boot.img           with a screen of its exits, registers and console
  vmm run boot.img --trace FILE    keep every exit; 'vmm trace' looks at them
  vmm ps                           list the machines that run
  vmm console boot-1234            attach to a machine's console
  vmm gdb boot-1234                debug a guest with gdb
  vmm stat -n 1                    what a machine's guest exits for, each second
  vmm doctor                       see what this host can do, and what to mend

'vmm COMMAND --help' explains each command.
"""

RUN_DESCRIPTION = """\
Boot an image and connect the guest's console to this terminal.

IMAGE is a file, or payload:NAME for a built-in guest ('vmm payloads' lists them). Its format is
recognised; a raw binary has no mark to be recognised by, so its format must be named.
"""

RUN_EPILOG = """\
formats:
  bootsector   a disk or its first sector, at 0x7c00 in real mode, with BIOS services in Python
  flat16       a raw binary in real mode, put at 0x7c00 and entered there
  flat32       a raw binary in protected mode, at 0x100000
  flat64       a raw binary in long mode, at 0x100000, the first 4 GiB mapped one to one
  elf32 elf64  an ELF kernel, entered in protected or long mode
  multiboot    a Multiboot 1 kernel, with --append and --module; multiboot2 likewise
  linux        a Linux kernel as it is installed (bzImage), with --append and --initrd; linux32
               enters it in 32-bit mode, which is otherwise done only where it has no other entry
  vmlinux      a Linux kernel that is not packed (ELF), by the entry that its unpacker uses
  pvh          an ELF kernel with a PVH note, Linux or not, with --append and --initrd
  firmware     a ROM below 4 GiB, from the reset vector

network cards:
  --net user                        the guest gets the host's address by DHCP; needs passt
  --net user,tcp=2222:22            the host's port 2222 leads to the guest's port 22; also udp=
  --net tap=tap0                    a tap device; the kernel passes the frames where it can
  ...,mac=52:54:00:12:34:56         the card's address; otherwise --name decides, or chance
  ...,vhost=on|off ...,rate=10M     insist or do without; bytes a second, each way

devices of your own:
  --device FILE.py:CLASS@pio:0x10-0x17,irq=5     at ports; irq and name= may be left out
  --device FILE.py:CLASS@mmio:0xd0000000+0x1000  at guest-physical addresses
  Without an end it answers at as many addresses as its table of registers has, or at one. A
  class has name, read(offset, size), write(offset, size, value), reset(); its constructor is
  given what it has parameters for: irq, memory, clock, out, name. Where it raises, the machine
  stops and you are asked: the access can be made again, also after a change of the file, or be
  skipped. Without a terminal (and without --shell) the run ends with status 8.

conditions:
  port=0x3f8[-0x3ff]   mmio=0xfee00000+0x1000   device=com1   reason=HLT   write   read
  reg=com1.LSR&1       reg=com1.IER=1           value=0x41    slower=100us
  rip=0x7c00           rip=main                 exits=1000    (the 1000th that meets the rest)
  Joined by commas, all have to hold: port=0x3f8,write,value=0x0a

in the background:
  --detach prints the machine's name as soon as it can be reached; what goes wrong before that is
  told here. 'vmm console NAME' attaches and detaches, 'vmm stop NAME' ends it. Its console and
  vmm's messages are in a log: --log FILE, --log journal (journalctl -t vmm-NAME), or NAME.log in
  $XDG_STATE_HOME/glassvm (~/.local/state/glassvm), where those of a month ago are removed.

configuration:
  --config FILE reads options from a file, in TOML, by the same names: image = "kernel.elf",
  memory = "64M", cpus = 2, strict = true, disk = ["a.img", "b.img:ro"]. What stands on the command
  line wins; options that may be given more than once are added to those of the file, and what it
  switches on stays on. Names of files are relative to the file's folder. --print-config prints such
  a file of all that was asked for.

console:
  A terminal is put into raw mode, so that the guest gets every key, and restored at the end.
  Should vmm be killed by SIGKILL, 'reset' mends the terminal. Where standard input or output is a
  pipe or a file, bytes are passed through as they are; the end of input does not end the run.

keys:
  Ctrl-A x        end the run
  Ctrl-A p        pause, with a Python prompt on the machine
  Ctrl-A h        help
  Ctrl-A Ctrl-A   send Ctrl-A to the guest
  Ctrl-C          is the guest's if it reads its console, and ends the run if it does not

exit status:
  0    the guest halted, powered off or, without --reboot, reset the machine
  2    wrong usage, or an image that cannot be booted
  4    KVM cannot be used ('vmm doctor' says why)
  6    the guest died: a triple fault, a panic, a KVM error; a report says of what
  8    a fault of the monitor
  124  --timeout or --max-exits was reached
  130  ended by Ctrl-A x, Ctrl-C or a reader that went away
  odd  (V << 1 | 1) & 0xff after the guest wrote V to the debug-exit port, 0xf4

examples:
  vmm run disk.img                             a boot sector, or a boot loader from a disk
  vmm run boot.img --disk data.img:ro          with a second disk that is not written to
  vmm run code.bin --format flat16             raw 16-bit code
  vmm run code.bin --format flat64 --cpl 3     raw 64-bit code, started in ring 3
  vmm run kernel.elf --cpus 2 --memory 256M    an ELF or Multiboot kernel on two processors
  vmm run kernel --module "initrd.img quiet"   with a Multiboot module and its arguments
  vmm run /boot/vmlinuz-6.1.0-50-amd64 --initrd initrd.img --append "console=ttyS0 quiet"
  vmm run /usr/share/seabios/bios.bin          firmware
  vmm run test.bin --format flat64 --timeout 5 --stats
  vmm run --tui disk.img                       with the screen; 'vmm top' shows it elsewhere
  vmm run kernel.elf --trace run.vtrace        with every exit in a file, for 'vmm trace'
  vmm run code.bin --format flat16 --device my_dev.py:MyDevice@pio:0x10
  vmm run kernel.elf --detach --name k --log k.log
  vmm run kernel.elf --cpus 2 --print-config   as TOML, for --config vm.toml
  vmm run kernel.elf --shell                   step by step, from a Python prompt
  vmm run kernel.elf --record run.vtrace       with all that devices got, for 'vmm replay'
  vmm run kernel --symbols System.map --timeout 10 --explain-json why.json
  echo hello | vmm run payload:serial_echo --timeout 2 > out.txt
"""

REPLAY_DESCRIPTION = """\
Drive the device models through a recording: the same accesses and the same input at the same
times, without a guest and without KVM. The first thing that a device does otherwise than in the
recording is told: an answer, an interrupt, a byte sent, a look at the clock.

Functions on ports, classes of yours and the Python BIOS are not replayed; their accesses are
counted.
"""

REPLAY_EPILOG = """\
exit status:
  0  every device did as recorded
  1  one did not
  2  the file cannot be replayed

examples:
  vmm run bios.bin --record run.vtrace --timeout 10
  vmm replay run.vtrace
  vmm replay run.vtrace --device rtc --json
"""

WHICH_MACHINE = "as 'vmm ps' lists it; may be left out where only one runs"

WHAT_TO_WATCH = "a machine as 'vmm ps' lists it (the only one, if left out), or a recording"

TOP_SYMBOLS = "names for the guest's addresses (ELF, System.map, nm), for the machine as well"

TOP_DESCRIPTION = """\
Watch a machine that runs: its exits by reason and by device with their times, a log of them in
words, registers, the kernel's counters, and the guest's console, which can be typed into. It can
be paused and stepped, and stopped where a condition is met. With a recording it is the same
screen, at any moment of it.

Keys are shown in the last line, and all of them by '?'. To leave does nothing to the machine.
"""

TOP_EPILOG = """\
examples:
  vmm top                    the machine that runs
  vmm top boot-1234          one of several
  vmm top run.vtrace         a recording
  vmm top --symbols System.map
  vmm run --tui disk.img     a machine with its screen, in one terminal
"""

PS_DESCRIPTION = """\
List the machines of this user that run, with what they are doing now. A machine can be found
from other terminals once it has run for a fifth of a second, or at once with --name.
"""

PS_EPILOG = """\
examples:
  vmm ps
  vmm ps --json | jq '.[].name'
"""

CONSOLE_DESCRIPTION = """\
Attach this terminal to the console of a machine that runs, in the background or in another
terminal. What was printed last is shown first. Ctrl-A d detaches (so does Ctrl-A x here), and the
guest runs on; Ctrl-C and all other keys are the guest's. Any number of terminals can be attached,
and all of them can type. Where standard input or output is a pipe or a file, bytes are passed
through as they are.
"""

CONSOLE_ALL = "show all output that is remembered (the last MiB), and not only a screenful"

CONSOLE_EPILOG = """\
exit status:
  0    detached
  130  ended by a signal
  that of the guest's run ('vmm run --help'), where it ends while one is attached

examples:
  vmm run disk.img --detach --name boot     the machine goes on by itself
  vmm console boot
  vmm console boot --all | tee boot.txt     from what is remembered on, until it ends
"""

STAT_DESCRIPTION = """\
Count what a guest exits for: by reason, by device and by address, with the times in the guest and
in the handler, KVM's own counters, and the processor's exits that user space does not see.

NAME is a machine that runs ('vmm ps' lists them), FILE a recording. A machine is not disturbed:
what it notes anyhow is read from this process. Without -n these are the last exits that it
remembers and KVM's counters since it was made; with -n what came in each interval.
"""

STAT_EPILOG = """\
columns:
  share        of all exits
  busy         of one processor's time, spent handling these exits
  guest p50    how long the guest ran before such an exit: half of the times are shorter
  handler p99  how long the handling took: one in a hundred takes longer

hardware exits:
  Reading the kernel's tracepoints takes root or CAP_PERFMON, and tracefs:
  sudo mount -t tracefs nodev /sys/kernel/tracing

examples:
  vmm stat                                      the only machine that runs
  vmm stat boot-1234 -n 1 --count 10
  vmm stat -n 5 --json | jq -c '{time, rate}'   for a log
  vmm stat run.vtrace                           of 'vmm run IMAGE --record run.vtrace'
"""

GDB_DESCRIPTION = """\
Start gdb on a machine that runs, with the symbols of its image. The guest stands still as soon as
gdb has attached, and runs on when it detaches or ends.

gdb's threads are the virtual processors. Memory is read by linear address through the page tables
of the chosen one; in real mode $pc is the linear address, $ip the offset. 'monitor help' lists what
there is besides: exits, devices, page walks, physical addresses, snapshots. A machine that was
started with 'vmm run --gdb ADDRESS' listens there; any other begins to when it is asked.
"""

GDB_EPILOG = """\
examples:
  vmm run kernel.elf --gdb 1234                          the guest waits before it does anything
  vmm gdb                                                gdb on the only machine that runs
  vmm gdb boot-1234 --ex 'break *0x7c00' --ex continue   with commands
  vmm gdb --batch --ex 'info registers' --ex detach      and without a prompt
  gdb -ex 'target remote :1234'                          gdb started by hand

in gdb:
  break main, hbreak *0x7c00, watch counter   where it stops; how this host does that is told where
                                              it matters
  unset tdesc filename                        read the registers anew, where the guest has gone from
                                              16 to 32 to 64-bit mode ('vmm gdb' does so by itself)
  reverse-stepi, reverse-continue, ...        back, with one vCPU, as far as to the last interrupt
"""

PAUSE_DESCRIPTION = """\
Hold a machine between two instructions, until 'vmm resume'. With --at it runs, also if it was held,
until an exit meets the condition (see 'vmm run --help', --stop-at), which is then told.
"""

PAUSE_AT = "where this is met, as for 'vmm run --stop-at': reg=com1.THR=0x41, rip=main"

PAUSE_EPILOG = """\
examples:
  vmm pause boot-1234
  vmm pause --at port=0x80,value=0x1f && vmm top
"""

RESUME_DESCRIPTION = "Let a machine that is held go on."

STOP_DESCRIPTION = """\
Have a guest shut itself down, and wait until it has: the power button of its machine is pressed. A
guest that does not listen to the button (few do but operating systems), or that is paused, is ended
at once as by 'vmm kill', and so is one that is not down when the time is up.

The status of 'vmm run' is 0 where the guest powered the machine off, and 130 where it was ended.
"""

KILL_DESCRIPTION = """\
End a machine's run at once, as if the power had failed, and wait until it has ended. The status of
its 'vmm run' is then 130.
"""

CPU_DESCRIPTION = """\
See what guests may see of the processor. A template is a list of features that a guest is shown,
and others are hidden: a machine that has one can be moved between all hosts that fulfil it.
"""

CPU_EPILOG = """\
'vmm run --cpu TEMPLATE' takes one, with features of your own behind it: --cpu x86-64-v2,+aes,-pcid.
'steady' is the same wherever it is fulfilled, which is for snapshots that move.
Your own templates are TOML files, named by their path:

  summary = "our machines"
  extends = "x86-64-v2"
  demand = ["avx", "xsave"]    # a host without one of them is refused
  allow = ["rdrand"]           # shown where the host has it

examples:
  vmm cpu list                              which are there, and which this host fulfils
  vmm cpu dump x86-64-v2,-pcid              features and leaves of such a guest
  vmm cpu diff host x86-64-v3               what the template hides here
  vmm cpu dump host --json >a.json          on one host, and then on another:
  vmm cpu diff a.json host
"""

WHICH_CPU = "as for 'vmm run --cpu', or host: all that KVM supports (default)"

IMAGE_DESCRIPTION = """\
Make a small disk with Debian on it, its kernel and initramfs (FILE's name with .vmlinuz and
.initrd), and a configuration (.toml) that boots it. Packages come from this machine's apt sources;
neither root nor a virtual machine is needed, and nothing is installed here.
"""

IMAGE_EPILOG = """\
The disk is one ext4 file system without partitions; busybox is its init, with a login on ttyS0 and
hvc0, and addresses by DHCP. Packages are unpacked and not configured, because that takes root: what
is not needed to log in is done inside by 'dpkg --configure -a', or by the first 'apt install'.

examples:
  vmm image debian debian.img
  vmm image debian web.img --package nginx-light --size 2G --hostname web
  vmm image debian old.img --release bullseye --password secret
  vmm run --config debian.toml               its console is here; Ctrl-A x ends it
"""

DOCTOR_DESCRIPTION = """\
Look at this host: KVM, its backend, permissions, capabilities, limits, and its speed in ring 0
and ring 3. Every problem is shown with its fix.
"""

DOCTOR_EPILOG = """\
exit status:
  0  guests can run here
  4  KVM cannot be used

examples:
  vmm doctor
  vmm doctor --no-probe --json | python3 -m json.tool
"""

PAYLOADS_DESCRIPTION = "List the built-in guests that 'vmm run payload:NAME' boots."

PAYLOADS_EPILOG = """\
examples:
  vmm payloads
  vmm run payload:smp --stats
"""

BALLOON_DESCRIPTION = """\
Show how much memory the guest of a machine has given back and what it says of its memory, or ask it
to give back SIZE in all: less than it has given lets it take some again. The machine was run with
--balloon, and the guest needs a driver for it, as Linux has.
"""

BALLOON_EPILOG = """\
examples:
  vmm balloon web              what it has given, and what it has free
  vmm balloon web 512M         ask for 512M of its memory
  vmm balloon web 0            it may have all of it again
"""

SNAPSHOT_DESCRIPTION = """\
Save the whole state of a running machine to a file: processors, interrupt controllers, devices and
memory. The machine is held meanwhile and then runs on. The file gets its name when it is complete:
whatever happens before leaves what was there.
"""

SNAPSHOT_EPILOG = """\
examples:
  vmm snapshot boot-1234 before.snap       'vmm ps' lists the names
  vmm snapshot boot-1234 later.snap --base before.snap
  vmm restore before.snap                  go on from there, any number of times
"""

RESTORE_DESCRIPTION = """\
Make a machine of a snapshot and let it run on from where it was taken, with its console on this
terminal. The file is checked before anything runs. What the guest then writes to memory is its own:
any number of machines can be made of one file, which must stay as it is while they live.
"""

RESTORE_EPILOG = """\
Functions and devices of your own are wired again from Python (vmm.restore). Devices that were given
with --device are loaded from their files again.

A snapshot names devices, which are run, networks, folders and disks. One that does more than read
disks is refused unless you say --trust.

examples:
  vmm restore before.snap
  vmm restore before.snap --tui --disks shared
  vmm restore before.snap --net tap=tap1 --new-identity    beside one that runs already
"""
