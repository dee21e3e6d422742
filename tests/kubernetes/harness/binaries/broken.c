/* What a bad release looks like to a cluster: the program says one line and ends at once, whatever it is asked. */
#include <stdio.h>

int main(void)
{
    fputs("broken on purpose: this image exits at once\n", stderr);
    return 1;
}
