# Have gdb read the registers' description again at each stop: a guest goes from 16 to 32 to 64-bit
# mode, and the description goes with it.
define hook-stop
  unset tdesc filename
end
document hook-stop
Follow the guest's mode.
end

define reset
  monitor reset
  maintenance flush register-cache
end
document reset
Have the guest begin anew, where it waited for gdb before its first instruction.
end
