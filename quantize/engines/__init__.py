"""Those who write int8 models: prepared model + plan -> int8 model. They never judge."""
