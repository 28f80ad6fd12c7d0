# Who jumped there? GDB goes back from where a guest died:
#
#   vmm run payload:bad_jump --gdb unix:back.gdb.socket
#   gdb -x examples/back.gdb -ex 'target remote back.gdb.socket' -ex who
#
# The guest is let run until it dies, at an address where nothing is; one step back is there, and one
# more is the instruction that jumped. Then it may die.
set confirm off
define who
  continue
  reverse-stepi
  printf "it died at %#x\n", (unsigned int) $pc
  reverse-stepi
  printf "and came there from\n"
  x/i $pc
  continue
  continue
end
