# GDB on a built-in guest, from its first instruction:
#
#   vmm run payload:hello64 --gdb unix:hello.gdb
#   gdb -x examples/debug.gdb -ex 'target remote hello.gdb' -ex hello
#
# It stops where the guest calls its routine that prints, changes the text, and lets it go on.
set confirm off
define hello
  x/5i $pc
  break *($pc + 10)
  continue
  printf "the text is at %#lx: %s", $rsi, (char *) $rsi
  set {char}$rsi = 'J'
  monitor status
  delete
  continue
end
