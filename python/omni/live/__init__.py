"""The live conversation: microphone, file, camera or screen in; speaker or file out."""
